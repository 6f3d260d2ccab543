// Package auth makes the two ends of a connection prove to each other that they belong to the same
// cluster before any HTTP is read: by a cluster key, by certificates, or both. Package hop defines
// the messages.
package auth
