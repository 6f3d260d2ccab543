// Package auth has the two ends of a connection prove to each other that they belong together,
// before anything of HTTP is read: by a key of the cluster, by certificates, or both. What is said
// for that stands in package hop.
package auth
