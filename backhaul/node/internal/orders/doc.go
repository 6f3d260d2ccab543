// Package orders is what nodes ask of each other directly: to start, recall and stop machines, for
// slots, for rows. Orders go over the hop, so that machines wake and stop while whatever else
// carries messages between nodes is down.
//
// An order is a request for its name, as in POST /start, with one line of JSON. The answer is lines
// of JSON: first what came of it, then, of some orders, what happens next, until the order is over.
// Fields that a reader does not know are passed over, so that nodes of two releases work together.
//
//	start   starts a machine, and tells its row until it is ready or has failed
//	ready   tells the row of a machine, until it is ready or does not start
//	recall  ends a machine's soft cordon, and tells its row
//	stop    stops a machine, and tells its row
//	app     tells an app's settings, and the rows of its machines
//	slots   a conversation: the edge says how many requests wait, and what it gives back; the owner
//	        grants slots and takes them back
package orders
