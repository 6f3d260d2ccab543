//go:build !unix

package embedded

import "os"

// lock does nothing where files have no such locks: two servers of one folder are then found by the
// port only.
func lock(*os.File) error { return nil }
