// Package drivers is the contract between the pool engine and the clouds.
//
// A [Driver] makes, lists and destroys one kind of machine in one account; it
// is small on purpose, so that a new cloud is little code and one conformance
// suite (drivers/drivertest). What only some clouds can do is an optional
// interface of one to three methods ([Hibernator], [Pauser], [Identifier],
// [DiskKeeper], [ConsoleReader]); [NewClient] looks the abilities up once, and
// the engine talks only to the [Client].
//
// The package refuses to know pools, leases, stores and HTTP. Drivers import
// it; it imports nothing of ours. There is no registry to register in by
// init: cmd lists the [Registration] values it was built with.
package drivers
