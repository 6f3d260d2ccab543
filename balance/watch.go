package balance

// Watcher hands out the changes of a fleet, conflated: of several changes of one row a slow reader gets the last, so that
// it costs at most one copy of the catalogue. It is for one reader.
type Watcher struct {
	fleet   *Fleet
	wake    chan struct{}
	pending map[any]Update // under fleet.mu; by what the update is about
	order   []any
}

// Watch returns a watcher that begins with everything the fleet holds. Close it when done.
func (f *Fleet) Watch() *Watcher {
	w := &Watcher{fleet: f, wake: make(chan struct{}, 1), pending: map[any]Update{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.Apps() {
		s, _ := f.App(id)
		if s.known {
			w.put(PutApp{s.app})
		}
		for m := range s.rows() {
			w.put(PutMachine{m.unpack(), m.version()})
		}
	}
	f.watchers[w] = struct{}{}
	return w
}

// C receives when there is something to take.
func (w *Watcher) C() <-chan struct{} { return w.wake }

// Take returns what has changed since the last Take, in order, ready for another fleet's [Fleet.Apply].
func (w *Watcher) Take() []Update {
	w.fleet.mu.Lock()
	defer w.fleet.mu.Unlock()
	us := make([]Update, 0, len(w.order))
	for _, k := range w.order {
		us = append(us, w.pending[k])
	}
	clear(w.pending)
	w.order = w.order[:0]
	return us
}

// Close ends the watch.
func (w *Watcher) Close() {
	w.fleet.mu.Lock()
	defer w.fleet.mu.Unlock()
	delete(w.fleet.watchers, w)
}

// put notes a change; fleet.mu is held.
func (w *Watcher) put(u Update) {
	var k any
	switch u := u.(type) {
	case PutApp:
		k = u.App.ID
	case RemoveApp:
		k = u.ID
	case PutMachine:
		k = u.Machine.Key()
	case RemoveMachine:
		k = MachineKey{u.App, u.ID}
	}
	if _, ok := w.pending[k]; !ok {
		w.order = append(w.order, k)
	}
	w.pending[k] = u
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// tell calls do for each watcher; f.mu is held.
func (f *Fleet) tell(do func(*Watcher)) {
	for w := range f.watchers {
		do(w)
	}
}
