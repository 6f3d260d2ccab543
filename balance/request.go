package balance

// Request is what a strategy knows of a request. It is a value; the zero value of every field but App is valid.
type Request struct {
	App AppID
	// Key asks for affinity: requests with equal keys go to the same machine while it has room. Empty means none.
	Key string
	// Tried are the machines that have been tried for this request; they are left out exactly.
	Tried []MachineID
	// Rand are the random bits of this pick, the only chance in it. 0 means that the balancer draws them.
	Rand uint64
	// Place is the request's place in a waiting room. The waiting room sets it at the first try and finds it again at the
	// next, so that a bounced request loses no ground. 0 for a request that is new.
	Place uint64
}

func (r *Request) tried(id MachineID) bool {
	for _, t := range r.Tried {
		if t == id {
			return true
		}
	}
	return false
}
