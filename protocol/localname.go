package protocol

import (
	"strings"
	"unicode/utf8"
)

// Characters that a system does not take in names stand in local names as those
// of the private use area from here on, one for each byte. Cygwin, WSL and
// Samba do the same with most of them.
const privateUse = 0xf000

// LocalName is the name that a file gets on a system (as runtime.GOOS calls it)
// that does not take every name that Unix does. On Windows that are names
// with one of <>:"|?*\ or a control character, a dot or blank at the end of a
// part, and devices such as CON or nul.txt; there and on macOS also names that
// are not UTF-8. Names that need no change have none, two names never become
// one, and OriginalName undoes it.
func LocalName(name, goos string) string {
	switch goos {
	case "windows":
		parts := strings.Split(name, "/")
		for i, part := range parts {
			parts[i] = windowsPart(part)
		}
		return strings.Join(parts, "/")
	case "darwin", "ios":
		return LegibleName(name)
	}
	return name
}

// LegibleName is a name in UTF-8: bytes that are none stand as LocalName has
// them.
func LegibleName(name string) string { return mapBytes(name, func(byte) bool { return false }) }

// rawName undoes LegibleName.
func rawName(legible string) string { return OriginalName(legible, "darwin") }

// mapBytes replaces bytes that are no UTF-8, characters that could be taken for
// replacements, and the ASCII characters that are told.
func mapBytes(name string, replace func(c byte) bool) string {
	var out strings.Builder
	for i := 0; i < len(name); {
		r, size := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && size == 1, r < utf8.RuneSelf && replace(byte(r)), privateUse <= r && r <= privateUse+0xff:
			for _, b := range []byte(name[i : i+size]) {
				out.WriteRune(privateUse + rune(b))
			}
		default:
			out.WriteString(name[i : i+size])
		}
		i += size
	}
	return out.String()
}

func windowsPart(part string) string {
	mapped := mapBytes(part, func(c byte) bool { return c < ' ' || strings.IndexByte(`<>:"|?*\`, c) >= 0 })
	if mapped == "" {
		return mapped
	}
	device := isDevice(mapped)
	if last := mapped[len(mapped)-1]; last == '.' || last == ' ' {
		mapped = mapped[:len(mapped)-1] + string(privateUse+rune(last))
	}
	if device {
		mapped = string(privateUse+rune(mapped[0])) + mapped[1:]
	}
	return mapped
}

// isDevice tells whether Windows takes a name for a device: with any
// extension, and with blanks before that.
func isDevice(part string) bool {
	base, _, _ := strings.Cut(part, ".")
	base = strings.ToUpper(strings.TrimRight(base, " "))
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	for _, device := range []string{"COM", "LPT"} {
		if n, ok := strings.CutPrefix(base, device); ok {
			switch n {
			case "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "¹", "²", "³":
				return true
			}
		}
	}
	return false
}

// OriginalName undoes LocalName. A name that LocalName has not made stays as it
// is.
func OriginalName(local, goos string) string {
	var out strings.Builder
	for _, r := range local {
		if privateUse < r && r <= privateUse+0xff {
			out.WriteByte(byte(r - privateUse))
		} else {
			out.WriteRune(r)
		}
	}
	if original := out.String(); LocalName(original, goos) == local {
		return original
	}
	return local
}
