package protocol

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLocalName(t *testing.T) {
	for _, c := range []struct{ name, windows, darwin string }{
		{"dir/file.txt", "dir/file.txt", "dir/file.txt"},
		{"My%20File (1).pdf", "My%20File (1).pdf", "My%20File (1).pdf"},
		{".profile", ".profile", ".profile"},
		{"größe/日本", "größe/日本", "größe/日本"},
		{"a:b?c", "a\uf03ab\uf03fc", "a:b?c"},
		{`<>"|*\`, "\uf03c\uf03e\uf022\uf07c\uf02a\uf05c", `<>"|*\`},
		{"new\nline", "new\uf00aline", "new\nline"},
		{"dot./blank /x", "dot\uf02e/blank\uf020/x", "dot./blank /x"},
		{"dots...", "dots..\uf02e", "dots..."},
		{"CON", "\uf043ON", "CON"},
		{"d/nul.tar.gz", "d/\uf06eul.tar.gz", "d/nul.tar.gz"},
		{"Aux ", "\uf041ux\uf020", "Aux "},
		{"com1", "\uf063om1", "com1"},
		{"LPT²", "\uf04cPT²", "LPT²"},
		{"COM10", "COM10", "COM10"},
		{"CONSOLE", "CONSOLE", "CONSOLE"},
		{"caf\xe9", "caf\uf0e9", "caf\uf0e9"},
		{"\uf03a", "\uf0ef\uf080\uf0ba", "\uf0ef\uf080\uf0ba"},
	} {
		if got := LocalName(c.name, "windows"); got != c.windows {
			t.Errorf("%q on Windows: %q, want %q", c.name, got, c.windows)
		}
		if got := LocalName(c.name, "darwin"); got != c.darwin {
			t.Errorf("%q on macOS: %q, want %q", c.name, got, c.darwin)
		}
		if got := LocalName(c.name, "linux"); got != c.name {
			t.Errorf("%q on Linux: %q", c.name, got)
		}
	}
}

// badOnWindows is an independent list of what Windows refuses.
func badOnWindows(part string) bool {
	base, _, _ := strings.Cut(strings.ToLower(part), ".")
	base = strings.TrimRight(base, " ")
	for _, device := range strings.Fields("con prn aux nul com0 com1 com9 com¹ lpt1 lpt³ conin$ conout$") {
		if base == device {
			return true
		}
	}
	return strings.ContainsAny(part, "<>:\"|?*\\\x00\x01\x0a\x1f") || strings.HasSuffix(part, ".") || strings.HasSuffix(part, " ") || !utf8.ValidString(part)
}

func FuzzLocalName(f *testing.F) {
	for _, name := range []string{"a/b", "CON.", "com1 .x", "a\xff\uf0ff", "x. .", "\uf043ON", "\uf043\uf04fN", "a\uf02e.", " ."} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) != nil {
			t.Skip()
		}
		for _, goos := range []string{"windows", "darwin", "linux"} {
			local := LocalName(name, goos)
			if back := OriginalName(local, goos); back != name {
				t.Fatalf("%q is %q on %s, which is %q again", name, local, goos, back)
			}
			if goos != "linux" && !utf8.ValidString(local) {
				t.Errorf("%q is %q on %s, which is no UTF-8", name, local, goos)
			}
			if goos == "windows" {
				for part := range strings.SplitSeq(local, "/") {
					if badOnWindows(part) {
						t.Errorf("%q is %q, which Windows refuses", name, local)
					}
				}
			}
		}
	})
}
