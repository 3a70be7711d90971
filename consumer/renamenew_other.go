//go:build !linux

package consumer

// renameNew does nothing: there is no portable way to rename without
// replacing.
func (t *target) renameNew(string, *handle, string) (ok bool, err error) { return false, nil }
