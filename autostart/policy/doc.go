// Package policy decides which machines of an app are recalled and started.
//
// It is pure: it takes the time, the rows and random bits as arguments, and returns a [Decision]. A
// [Planner] is the default; package autostart asks it, and carries out what it says.
package policy
