package downscale

import "github.com/ebbkit/ebb/balance"

// Views is what other nodes have told this one. Whatever carries rows, reports and
// acknowledgements between nodes implements it. Its methods must not block.
type Views interface {
	// Parked returns how many requests wait for an app's machines, on all edges, as last reported;
	// fresh is false when some edge's report is missing or too old: nothing of the app is stopped
	// then.
	Parked(app balance.AppID) (n int, fresh bool)
	// Acked reports whether every live node picks by that generation of the machine's cordon, or
	// a later one. Live is a node that may still send something: one that is silent counts until
	// it cannot any longer, say since its lease has ended, and one that has begun anew has
	// acknowledged nothing.
	Acked(app balance.AppID, id balance.MachineID, gen uint64) bool
	// Load returns what is in flight at a machine that another node owns, without slots that are only
	// granted, and how much of that are long connections that have carried no data for
	// [balance.App].IdleAfter. With it several owners stop together what one of them would.
	//
	// told is false where owners do not tell each other their loads. The machine then counts for the
	// minimums only, which is right where a region has one owner. fresh is false when the report is
	// missing or too old: nothing of the machine's region is stopped then.
	Load(app balance.AppID, id balance.MachineID) (inFlight, idle int, told, fresh bool)
}
