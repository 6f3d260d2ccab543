// Package autostart starts machines on demand, never more than the demand needs, and parks requests
// until one is ready.
//
// At an edge, an [Autostart] is the one waiting room of all apps. If a machine can serve a request,
// the request goes there at once, above the soft limit if need be, and another machine is started
// as well. Otherwise the request is parked and gets the first slot that becomes free: on a machine
// that has become ready, or one that another request has left.
//
// A [policy.Policy] for each app decides what to start; the default is a [policy.Planner]. Demand
// is the requests in flight and parked. A start in flight counts as the machine that it will be,
// however long it takes, so that a slow boot starts no second machine; and nodes that do not talk
// to each other start the same machines. Package policytest checks other policies.
//
// The [Owner] of a machine carries out a start. Within one process that is a Starter of package
// machine, which finds out when a machine is ready, keeps checking it, and restarts it when it is
// dead. Package process has a driver for child processes; package machinetest checks other drivers.
package autostart
