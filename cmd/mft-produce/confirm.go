package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mft/internal/config"
	"mft/producer"
)

// confirmOptions say whose receipts are waited for.
type confirmOptions struct {
	confirm confirmValue
	group   string
}

func (c *confirmOptions) add(flags *pflag.FlagSet) {
	c.confirm.timeout = producer.DefaultConfirmTimeout
	flags.Var(&c.confirm, "confirm", "return when a receiver has every file durably in place, with its digest compared; give up when none was confirmed for `TIME` (10m; 0: never)")
	flags.Lookup("confirm").NoOptDefVal = "true"
	flags.StringVar(&c.group, "confirm-group", "", "only receivers of consumer group `NAME` confirm")
}

// confirmValue is the value of --confirm: a time, or whether to.
type confirmValue struct {
	on      bool
	timeout time.Duration
}

func (v *confirmValue) Type() string { return "time" }

func (v *confirmValue) String() string {
	if !v.on {
		return ""
	}
	return v.timeout.String()
}

func (v *confirmValue) Set(text string) error {
	switch strings.ToLower(text) {
	case "true", "yes", "on":
		*v = confirmValue{true, producer.DefaultConfirmTimeout}
		return nil
	case "false", "no", "off":
		*v = confirmValue{}
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is no time: write --confirm, or a time as --confirm=5m", text)
	}
	*v = confirmValue{true, d}
	return nil
}

// options are what the flags say, then the transfer; nil: nobody is waited for.
func (c *confirmOptions) options(flags *pflag.FlagSet, t *config.Confirm) *producer.Confirm {
	v, group := c.confirm, c.group
	if t != nil && !flags.Changed("confirm") {
		v = confirmValue{true, producer.DefaultConfirmTimeout}
		if t.Timeout != nil {
			v.timeout = *t.Timeout
		}
	}
	if t != nil && !flags.Changed("confirm-group") {
		group = t.Group
	}
	if !v.on {
		return nil
	}
	if v.timeout == 0 {
		v.timeout = -1
	}
	return &producer.Confirm{Group: group, Timeout: v.timeout}
}
