// Package interop holds the backhaul to programs that nobody here wrote: the interoperability tests of gRPC, h2spec, nginx,
// Python's http.server and curl, through both hops. It has a module of its own, so that ebb does not depend on them:
//
//	cd backhaul/interop && go test ./...
//
// What is not installed is skipped.
package interop
