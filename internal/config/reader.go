package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// reader collects the first error and the notes while a file is read. YAML
// nodes are read by hand instead of being decoded into structs, because that
// alone gives every error its line, its key and its remedy.
type reader struct {
	path  string
	err   *Error
	notes *[]string
}

func (r *reader) fail(line int, key, format string, args ...any) {
	if r.err == nil {
		r.err = &Error{Path: r.path, Line: line, Key: key, Reason: fmt.Sprintf(format, args...)}
	}
}

func (r *reader) note(format string, args ...any) {
	*r.notes = append(*r.notes, fmt.Sprintf(format, args...))
}

// value is one node with its key, "broker.listen[0]".
type value struct {
	r    *reader
	node *yaml.Node
	key  string
}

func (v value) fail(format string, args ...any) { v.r.fail(v.node.Line, v.key, format, args...) }

// empty reports a key with nothing behind it.
func (v value) empty() bool { return v.node.Tag == "!!null" }

func (v value) string() string {
	if v.node.Kind != yaml.ScalarNode || v.empty() {
		v.fail("give a text, not %s", kindName(v.node))
		return ""
	}
	if strings.ContainsRune(v.node.Value, 0) {
		v.fail("holds a NUL character: remove it")
		return ""
	}
	return v.node.Value
}

func (v value) bool() bool {
	switch strings.ToLower(v.string()) {
	case "true", "yes", "on", "y", "1":
		return true
	case "false", "no", "off", "n", "0":
		return false
	}
	v.fail("give true or false, not %q", v.node.Value)
	return false
}

func (v value) int(low, high int64) int64 {
	n, err := strconv.ParseInt(strings.ReplaceAll(v.string(), "_", ""), 10, 64)
	if err != nil || n < low || n > high {
		v.fail("give a number from %d to %d, not %q", low, high, v.node.Value)
	}
	return n
}

// duration reads a time of the form 90s, 5m, 1h30m.
func (v value) duration() time.Duration {
	d, err := time.ParseDuration(v.string())
	if err != nil || d < 0 {
		v.fail("give a time such as 90s, 5m or 1h30m, not %q", v.node.Value)
	}
	return d
}

// oneOf reads a text that must be one of the choices.
func (v value) oneOf(choices ...string) string {
	s := v.string()
	if !slices.Contains(choices, s) {
		v.fail("%q is not one of %s", s, strings.Join(choices, ", "))
	}
	return s
}

func (v value) address() string {
	s, err := ParseAddress(v.string())
	if err != nil {
		v.fail("%v", err)
	}
	return s
}

// host is a host name or an IP address; with a port behind it, that is put into port.
func (v value) host(port *int64) string {
	s := v.string()
	if h, p, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseInt(p, 10, 32); err == nil {
			s, *port = h, n
		}
	}
	if _, err := ParseAddress(net.JoinHostPort(s, strconv.FormatInt(*port, 10))); err != nil {
		v.fail("%q is no host: give a name or an IP address, without a scheme or path", s)
	}
	return s
}

// items is the list, or the single value taken as a list of one.
func (v value) items() []value {
	if v.node.Kind != yaml.SequenceNode {
		return []value{v}
	}
	items := make([]value, len(v.node.Content))
	for i, node := range v.node.Content {
		items[i] = v.r.value(node, fmt.Sprintf("%s[%d]", v.key, i))
	}
	return items
}

func (v value) strings() []string {
	var all []string
	for _, item := range v.items() {
		all = append(all, item.string())
	}
	return all
}

func (r *reader) value(node *yaml.Node, key string) value {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return value{r, node, key}
}

// mapping is a YAML mapping whose keys are taken out one by one; what is left
// at the end is unknown.
type mapping struct {
	value
	keys  []*yaml.Node
	left  map[string]value
	lines map[string]int
}

func newMapping(r *reader, node *yaml.Node, key string) *mapping {
	m := &mapping{value: r.value(node, key), left: map[string]value{}, lines: map[string]int{}}
	if m.node.Kind != yaml.MappingNode {
		if !m.empty() {
			m.fail("give keys with values (key: value), not %s", kindName(m.node))
		}
		return m
	}
	for i := 0; i+1 < len(m.node.Content); i += 2 {
		name := m.node.Content[i]
		if _, ok := m.left[name.Value]; ok {
			r.fail(name.Line, m.path(name.Value), "is there twice: remove one")
		}
		m.keys = append(m.keys, name)
		m.lines[name.Value] = name.Line
		m.left[name.Value] = r.value(m.node.Content[i+1], m.path(name.Value))
	}
	return m
}

func (m *mapping) path(name string) string {
	if m.key == "" {
		return name
	}
	return m.key + "." + name
}

func (m *mapping) has(name string) bool { _, ok := m.left[name]; return ok }

// take gives the value of a key to read, once. A key without a value counts as
// not given.
func (m *mapping) take(name string, read func(value)) {
	v, ok := m.left[name]
	if !ok {
		return
	}
	delete(m.left, name)
	if !v.empty() {
		read(v)
	}
}

// later names keys that a coming version will have.
func (m *mapping) later(names ...string) {
	for _, name := range names {
		if m.has(name) {
			m.r.fail(m.lines[name], m.path(name), "not supported by this version: remove it")
		}
	}
}

// done fails on the first key that nobody took. known is what may stand here.
func (m *mapping) done(known ...string) {
	for _, name := range m.keys {
		if m.has(name.Value) {
			m.r.fail(name.Line, m.path(name.Value), "unknown key: use one of %s", strings.Join(known, ", "))
			return
		}
	}
}

func kindName(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case node.Kind == yaml.MappingNode:
		return "keys with values"
	case node.Tag == "!!null":
		return "nothing"
	}
	return fmt.Sprintf("%q", node.Value)
}
