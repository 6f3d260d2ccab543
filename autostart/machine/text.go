package machine

import "github.com/ebbkit/ebb/internal/enum"

// The text forms of enums: their names, in JSON, flags and logs alike. Each reads back what it writes.

// MarshalText returns the kind of boot's name; a value without one is an error.
func (k BootKind) MarshalText() ([]byte, error) {
	return enum.Marshal("machine: kind of boot", bootKindNames[:], uint8(k))
}

// UnmarshalText is the inverse of [BootKind.MarshalText]; the error lists the names.
func (k *BootKind) UnmarshalText(text []byte) error {
	return enum.Unmarshal(k, "machine: kind of boot", bootKindNames[:], text)
}
