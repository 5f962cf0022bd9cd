// Package pool is the domain: machines kept warm, the leases on them, and the
// engine that never loses one.
//
// It knows instances and leases, their states and the transitions between
// them ([InstanceState], [LeaseState]), the contract of the store ([Store]),
// of the program inside a machine ([Agent]) and of boot scripts ([Boot]), the
// pure decisions (plan, mayDestroy) and the [Manager] that carries them out in
// three loops: planner, worker, sweeper.
//
// It refuses to know SQL, HTTP, any cloud by name, and pool.yml: adapters
// import it, it imports only drivers.
package pool
