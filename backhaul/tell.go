package backhaul

import (
	"fmt"
	"math/rand/v2"
	"time"
)

const headerTrace = "Traceparent"

// traced finds the request's trace, or makes one.
func (f *flight) traced() {
	if v := f.req.Header[headerTrace]; len(v) > 0 {
		f.trace = v[0]
		return
	}
	if f.t.c.MakeTrace {
		// Neither half may be zero.
		f.trace = fmt.Sprintf("00-%016x%016x-%016x-00", rand.Uint64(), rand.Uint64()|1, rand.Uint64()|1)
		f.made = true
	}
}

// step notes what happens, where somebody may want to hear of it.
func (f *flight) step(s Step) {
	if f.t.c.Trace.Trail == nil || len(f.steps) >= maxSteps {
		return
	}
	s.At = time.Since(f.start)
	f.steps = append(f.steps, s)
}

// tell tells the way of a request that is over.
func (f *flight) tell(d Done) {
	hook := f.t.c.Trace.Trail
	if hook == nil {
		return
	}
	want, sampled := wanted(d, f.t.c.Slow, f.t.c.Sample, rand.Uint64())
	if !want {
		return
	}
	t := Trail{Done: d, Method: f.req.Method, Trace: f.trace, Begun: f.start, Sampled: sampled}
	if f.req.URL != nil {
		t.Path = f.req.URL.Path
	}
	t.Steps = append(f.steps, Step{Kind: StepEnd, At: d.Total, Took: d.Download, Try: d.Try, Err: d.Err})
	hook(t)
}
