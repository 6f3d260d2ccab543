// Package longconn knows the connections to machines that do not end by themselves, and tells them
// to end where each can: an upgraded connection, an event stream, a gRPC call.
package longconn
