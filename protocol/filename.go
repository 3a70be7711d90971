package protocol

import (
	"fmt"
	"strings"
)

const (
	maxNamePart = 255  // bytes, as Unix file systems have it
	maxName     = 4096 // bytes
)

// NameError reports a name that no receiver writes to.
type NameError struct {
	Name   string
	Reason string
}

func (e *NameError) Error() string {
	name := e.Name
	if len(name) > 100 {
		name = name[:100] + "..."
	}
	return fmt.Sprintf("the name %q is refused: %s", name, e.Reason)
}

// CheckName refuses names in manifests that might leave the directory they are
// received into, on any system: empty and absolute ones, those with the parts
// "", "." or "..", also where backslashes separate, drive letters
// and network shares of Windows, and those with a NUL, a part over 255 bytes
// or over 4096 bytes. Names that not every system takes (CON, a trailing dot,
// bytes that are no UTF-8) pass: see LocalName. The error is a *NameError.
//
// It is the first of two fences: receivers open files through os.Root, too.
func CheckName(name string) error {
	if reason := nameFault(name); reason != "" {
		return &NameError{Name: name, Reason: reason}
	}
	return nil
}

func nameFault(name string) string {
	switch {
	case name == "":
		return "it is empty"
	case len(name) > maxName:
		return fmt.Sprintf("it is longer than %d bytes", maxName)
	case strings.ContainsRune(name, 0):
		return "it contains a NUL"
	case name[0] == '/' || name[0] == '\\':
		return "it is absolute"
	case len(name) > 2 && isLetter(name[0]) && name[1] == ':' && (name[2] == '\\' || name[2] == '/'):
		return "it begins with a drive"
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return "it has an empty part"
		case part == ".":
			return `it has a part "."`
		case len(part) > maxNamePart:
			return fmt.Sprintf("a part is longer than %d bytes", maxNamePart)
		}
		for sub := range strings.SplitSeq(part, `\`) {
			if sub == ".." {
				return `it has a part ".."`
			}
		}
	}
	return ""
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
