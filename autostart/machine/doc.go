// Package machine is the owner's side of autostart: it makes machines run, and keeps them healthy.
//
// A [Starter] carries out the starts of the machines that its node owns with a [Driver], finds out
// when a machine is ready, goes on checking it, and restarts it when it is dead. The machine's row
// says why a boot takes long, and what it lacks. Within one process a Starter is the Owner that
// package autostart asks.
package machine
