// Package contract has the tests of what is promised for all packages alike: that everything that
// runs ends in the same way, and that every configuration says what is wrong with it.
package contract
