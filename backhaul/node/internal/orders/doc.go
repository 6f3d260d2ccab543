// Package orders carries what nodes ask of each other directly: to start, recall and stop machines,
// to get slots, to get rows. Orders go over the hop, so machines wake and stop while whatever else
// carries messages between nodes is down.
//
// An order is a request whose path is its name, as in POST /start, with one line of JSON. The
// answer is lines of JSON: first the result, then, for some orders, what happens next, until the
// order is over. A reader ignores fields that it does not know, so nodes of two releases work
// together.
//
//	start   starts a machine, and sends its row until it is ready or has failed
//	ready   sends the row of a machine until it is ready or does not start
//	recall  ends a machine's soft cordon, and sends its row
//	stop    stops a machine, and sends its row
//	app     sends an app's settings, and the rows of its machines
//	slots   a conversation: the edge says how many requests wait, and returns grants that it cannot
//	        use; the owner grants slots
package orders
