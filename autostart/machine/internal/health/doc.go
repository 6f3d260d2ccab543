// Package health judges machines by what is observed: when to check one that boots, whether one
// that runs is healthy or has to be restarted, what a slow boot lacks, and whether a failed start
// is retried. It is pure.
package health
