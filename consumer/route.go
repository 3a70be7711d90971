package consumer

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"mft/protocol"
)

// Route is a template for the names of files that arrive, relative to the
// directory that they are received into. Made by ParseRoute.
type Route struct {
	parts []routePart
	dirs  bool // ends with the whole name, so that directories have a place, too
}

type routePart struct {
	text  string // as it is
	field string // or the name of a field
}

// routed is what the fields of a route are made of.
type routed struct {
	topic    string
	name     string
	transfer protocol.TransferID
	sent     time.Time
}

// routeFields are the fields of a route.
var routeFields = map[string]func(f *routed) string{
	"topic":    func(f *routed) string { return f.topic },
	"name":     func(f *routed) string { return f.name },
	"dir":      func(f *routed) string { return strings.TrimSuffix(f.name[:len(f.name)-len(path.Base(f.name))], "/") },
	"file":     func(f *routed) string { return path.Base(f.name) },
	"base":     func(f *routed) string { base := path.Base(f.name); return base[:len(base)-len(extension(base))] },
	"ext":      func(f *routed) string { return extension(path.Base(f.name)) },
	"date":     func(f *routed) string { return f.sent.Format("2006-01-02") },
	"time":     func(f *routed) string { return f.sent.Format("150405") },
	"year":     func(f *routed) string { return f.sent.Format("2006") },
	"month":    func(f *routed) string { return f.sent.Format("01") },
	"day":      func(f *routed) string { return f.sent.Format("02") },
	"transfer": func(f *routed) string { return string(f.transfer) },
}

const routeFieldList = "topic, name, dir, file, base, ext, date, time, year, month, day and transfer"

// extension is that of a file's name with its dot; ".profile" has none.
func extension(base string) string {
	if ext := path.Ext(base); ext != base {
		return ext
	}
	return ""
}

// ParseRoute reads a template such as "{topic}/{date}/{name}". Fields are:
//
//	{name}              the name as it was sent, with its directories
//	{dir} {file}        its directories, and the last part
//	{base} {ext}        the last part without its extension, and that with its dot
//	{topic} {transfer}  the topic, and the transfer's id
//	{date} {time}       when it was sent, in local time: 2006-01-02 and 150405
//	{year} {month} {day}
//
// Two braces stand for one. A part of the path that comes out empty is left out.
func ParseRoute(template string) (*Route, error) {
	r := &Route{}
	var text strings.Builder
	for rest := template; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "{{"), strings.HasPrefix(rest, "}}"):
			text.WriteByte(rest[0])
			rest = rest[2:]
		case rest[0] == '}':
			return nil, fmt.Errorf("route %q: a } without its {: write }} for a brace", template)
		case rest[0] == '{':
			field, after, ok := strings.Cut(rest[1:], "}")
			if _, known := routeFields[field]; !ok || !known {
				return nil, fmt.Errorf("route %q: there is no field {%s: use %s", template, field+map[bool]string{true: "}"}[ok], routeFieldList)
			}
			r.parts = append(r.parts, routePart{text: text.String()}, routePart{field: field})
			text.Reset()
			rest = after
		default:
			text.WriteByte(rest[0])
			rest = rest[1:]
		}
	}
	r.parts = append(r.parts, routePart{text: text.String()})

	tells := false // one file from another
	for _, p := range r.parts {
		switch p.field {
		case "name", "file", "base", "transfer":
			tells = true
		}
	}
	switch n := len(r.parts); {
	case strings.HasPrefix(template, "/") || strings.HasPrefix(template, `\`):
		return nil, fmt.Errorf("route %q is absolute: it is relative to the directory that files are received into", template)
	case !tells:
		return nil, fmt.Errorf("route %q gives every file the same name: add {name} or {file}", template)
	case n > 1 && r.parts[n-2].field == "name" && r.parts[n-1].text == "":
		before := r.parts[n-3].text
		r.dirs = before == "" && n == 3 || strings.HasSuffix(before, "/")
	}
	sample := &routed{topic: "t", name: "d/f.x", transfer: protocol.NewTransferID(), sent: time.Unix(0, 0)}
	if err := errors.Join(protocol.CheckName(r.expand(sample)), checkReserved(r.expand(sample))); err != nil {
		return nil, fmt.Errorf("route %q: %w", template, err)
	}
	return r, nil
}

// errNoPlace is a directory that a route has no place for: it gives files other
// directories.
var errNoPlace = errors.New("the route has no place for directories")

func (r *Route) expand(f *routed) string {
	var out strings.Builder
	for _, p := range r.parts {
		out.WriteString(p.text)
		if p.field != "" {
			out.WriteString(routeFields[p.field](f))
		}
	}
	parts := strings.FieldsFunc(out.String(), func(c rune) bool { return c == '/' })
	return strings.Join(parts, "/")
}

// name is where a file goes. The manifest's name has passed CheckName; so does
// what this returns.
func (r *Route) name(m *protocol.Manifest, topic string, id protocol.TransferID, sent time.Time) (string, error) {
	name := r.expand(&routed{topic: topic, name: m.Name, transfer: id, sent: sent.Local()})
	return name, protocol.CheckName(name)
}
