package guard

import "os"

// self returns a path that executes this binary.
func self() (string, error) { return os.Executable() }

// nameProcess does nothing: the short name comes from the file's name.
func nameProcess() {}
