//go:build !unix

package backhaul

func maxFiles() int { return 0 }
