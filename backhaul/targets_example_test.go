package backhaul_test

import (
	"fmt"
	"net/http"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

func ExampleTargetHeaders() {
	h := backhaul.TargetHeaders{
		PreferRegion: "Prefer-Region", Key: "Session",
		Aliases: map[string][]string{"asia": {"nrt", "hkg"}},
	}
	in := http.Header{"Prefer-Region": {"asia"}, "Session": {"user-7"}}
	r := balance.Request{App: "web"} // in Config.Route, of a Transport
	if err := h.Read(in, &r); err != nil {
		fmt.Println(err) // answer it with 400
	}
	fmt.Println(r.Key, r.Prefer.Regions)
	// Output: user-7 [nrt hkg]
}
