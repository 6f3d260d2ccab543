package boots_test

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
)

func ExampleBoots() {
	var b boots.Boots
	fmt.Println("nothing is known: suspect after", b.Suspect())
	for _, took := range []time.Duration{9, 8, 14, 10} {
		b.Learn(took * time.Second)
	}
	fmt.Println(
		"expected", b.Expected(), "- suspect after", b.Suspect(), "- a request waits at most", b.Wait(),
	)
	fmt.Println("a start of 4s needs about", b.Remaining(4*time.Second), "more")
	// Output:
	// nothing is known: suspect after 3m0s
	// expected 10s - suspect after 28s - a request waits at most 43s
	// a start of 4s needs about 6s more
}
