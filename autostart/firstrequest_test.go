package autostart

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// A first request is planned for at once, also right after a look that found nothing to do.
func TestFirstRequestIsPlannedForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{})
		w.launch()
		defer w.stop()
		synctest.Wait() // the look at what there is is over, and no time has passed
		began := time.Now()
		if _, err := w.get(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %v, want at once: the boot takes no time", took)
		}
	})
}
