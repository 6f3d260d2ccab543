//go:build !unix

package embedded

import "os"

// lock does nothing on systems without such locks. There, only a port that is taken shows that two
// servers share a folder.
func lock(*os.File) error { return nil }
