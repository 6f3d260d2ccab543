//go:build !linux && !darwin

package guard

// Guard does nothing on this system: it has no process groups that a helper could kill.
type Guard struct{}

// Start returns a Guard that does nothing.
func Start() (*Guard, error) { return &Guard{}, nil }

// Add does nothing.
func (*Guard) Add(int) error { return nil }

// Remove does nothing.
func (*Guard) Remove(int) {}

// Close does nothing.
func (*Guard) Close() {}
