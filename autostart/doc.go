// Package autostart starts machines on demand, never more than the demand needs, and parks requests
// until one is ready.
//
// At an edge, an [Autostart] is the one waiting room of all apps. A request that something can
// serve goes there at once, above the soft limit if need be, and another machine is started beside
// it. A request that nothing can serve is parked, and gets the first slot that becomes free: of a
// machine that has become ready, or that another request has left.
//
// What is started is decided by a [policy.Policy] for each app; the default is a [policy.Planner].
// Demand is what is in flight and parked. A start in flight counts as the machine that it will be,
// however long it takes, so that a slow boot starts no second machine; and nodes that do not talk
// to each other start the same machines. Package policytest checks policies that others write.
//
// The [Owner] of a machine carries a start out. Within one process that is a Starter of package
// machine, which finds out when a machine is ready, goes on checking it, and restarts it when it is
// dead. Package process has a driver for child processes; package machinetest checks others.
package autostart
