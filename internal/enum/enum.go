// Package enum writes and reads the names of values, for the text forms that all enums of the
// library have. It is pure.
package enum

import (
	"fmt"
	"slices"
	"strings"
)

// String returns the name of value i, or one made of kind and its number where it has none:
// "state(9)".
func String(names []string, i uint8, kind string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", kind, i)
}

// Marshal returns the name of value i; one without a name is an error. what says whose it is:
// "balance: state".
func Marshal(what string, names []string, i uint8) ([]byte, error) {
	if int(i) >= len(names) {
		return nil, fmt.Errorf("%s %d has no name: want one of the constants", what, i)
	}
	return []byte(names[i]), nil
}

// Unmarshal is the inverse of [Marshal].
func Unmarshal[T ~uint8](v *T, what string, names []string, text []byte) error {
	i := slices.Index(names, string(text))
	if i < 0 {
		return fmt.Errorf("%s %q: want %s", what, text, Or(names))
	}
	*v = T(i)
	return nil
}

// Or lists names as alternatives: "off, stop or suspend".
func Or(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
