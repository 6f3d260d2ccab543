//go:build !linux

package autostart

import "net"

// watchable reports whether gone can tell anything of c.
func watchable(net.Conn) bool { return false }

// gone reports whether the other side of c has closed it: not to be told here without reading.
func gone(net.Conn) bool { return false }
