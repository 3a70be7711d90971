package consumer

// rename gives the temporary file its name, replacing what has it.
func (t *target) rename(temp string, _ *handle, _, name string) error {
	return t.root.Rename(workDir+"/"+temp, name)
}
