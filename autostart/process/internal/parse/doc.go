// Package parse reads and writes the texts of processes: commands and their variables, exit
// statuses, counters of control groups, tables of sockets, and the last line of an output. It is
// pure.
package parse
