package balance

import "testing"

func TestClassNames(t *testing.T) {
	for c, want := range map[Class]string{0: "none", ClassWebSocket: "websocket", ClassStream | ClassTCP: "stream+tcp", ClassAll: "stream+events+websocket+tcp", 1 << 7: "unknown"} {
		if got := c.String(); got != want {
			t.Errorf("%d: %q, want %q", c, got, want)
		}
	}
}
