// Package contain calls code of others.
package contain

import "fmt"

// Call calls f and returns its panic as an error.
func Call[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}
