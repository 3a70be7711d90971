package main

import (
	"mft/consumer"
	"mft/internal/command"
	"mft/internal/config"
)

// arrival is what becomes of files that arrive: what the flags say, then the
// destination.
func (o *options) arrival(d *config.Destination) (cfg consumer.FilesConfig, err error) {
	given := o.flags.Changed
	cfg.OnConflict = consumer.Conflict(o.onConflict)
	if d.OnConflict != "" && !given("on-conflict") {
		cfg.OnConflict = consumer.Conflict(d.OnConflict)
	}
	switch cfg.OnConflict {
	case consumer.ConflictOverwrite, consumer.ConflictRename, consumer.ConflictSkip, consumer.ConflictFail:
	default:
		return cfg, command.Usagef("--on-conflict %q: use overwrite, rename, skip or fail", o.onConflict)
	}
	cfg.Metadata = consumer.Metadata{
		Owner:       o.owner || d.Owner && !given("owner"),
		Xattrs:      o.xattrs || d.Xattrs && !given("xattrs"),
		UnsafeLinks: o.unsafeLinks || d.UnsafeLinks && !given("unsafe-links"),
	}
	route := d.Route
	if given("route") {
		route = o.route
	}
	if route != "" {
		if cfg.Route, err = consumer.ParseRoute(route); err != nil {
			return cfg, command.Usagef("%w", err)
		}
	}
	exec := d.Exec
	if given("exec") {
		exec = nil
		if o.exec != "" {
			exec = &config.Exec{Line: o.exec}
		}
	}
	if exec == nil {
		return cfg, nil
	}
	hook := &consumer.Hook{Command: exec.Words, Timeout: o.execTimeout, Tries: o.execTries, Parallel: o.execParallel}
	if exec.Line != "" {
		if hook.Command, err = consumer.ParseCommand(exec.Line); err != nil {
			return cfg, command.Usagef("--exec: %w", err)
		}
	}
	if exec.Timeout != 0 && !given("exec-timeout") {
		hook.Timeout = exec.Timeout
	}
	if exec.Tries != 0 && !given("exec-tries") {
		hook.Tries = exec.Tries
	}
	if exec.Parallel != 0 && !given("exec-parallel") {
		hook.Parallel = exec.Parallel
	}
	if hook.Tries < 1 || hook.Parallel < 1 || hook.Timeout < 0 {
		return cfg, command.Usagef("--exec-tries, --exec-parallel and --exec-timeout: give 1 or more tries and commands at a time, and no negative time")
	}
	if hook.Timeout == 0 {
		hook.Timeout = -1
	}
	if err := hook.Check(); err != nil {
		return cfg, command.Usagef("--exec: %w", err)
	}
	cfg.Hook = hook
	return cfg, nil
}
