// Package health judges machines from what is seen of them: when to look at one that boots, whether
// one that runs is healthy and has to be restarted, what a boot that takes long lacks, and whether
// a start that failed is tried again. It is pure.
package health
