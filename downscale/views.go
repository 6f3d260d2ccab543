package downscale

import "github.com/ebbkit/ebb/balance"

// Views is what other nodes have told this one. Whatever carries rows, reports and acknowledgements
// between nodes implements it. Its methods must not block.
type Views interface {
	// Parked returns how many requests wait for an app's machines, on all edges, as last reported.
	// fresh is false if some edge's report is missing or too old: nothing of the app is then
	// stopped.
	Parked(app balance.AppID) (n int, fresh bool)
	// Acked reports whether every live node picks by that generation of the machine's cordon, or a
	// later one. A node is live while it may still send requests: a silent one counts until it can
	// no longer do so, for example because its lease has expired. A node that has restarted has
	// acknowledged nothing.
	Acked(app balance.AppID, id balance.MachineID, gen uint64) bool
	// Load returns what is in flight at a machine that another node owns, without slots that are
	// only granted, and how many of these are long connections that have carried no data for
	// [balance.App].IdleAfter. With it several owners together stop the machines that a single one
	// would.
	//
	// told is false if owners do not tell each other their loads. The machine then counts for the
	// minimums only, which is right if a region has one owner. fresh is false if the report is
	// missing or too old: nothing of the machine's region is then stopped.
	Load(app balance.AppID, id balance.MachineID) (inFlight, idle int, told, fresh bool)
}
