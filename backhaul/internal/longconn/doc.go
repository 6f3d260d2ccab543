// Package longconn tracks the connections to machines that do not end by themselves (upgraded
// connections, event streams and gRPC calls), and ends each one where its protocol allows.
package longconn
