package sqlite_test

import (
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
	"github.com/vm-runner/drone-runner-aws/store/storetest"
)

func BenchmarkStore(b *testing.B) {
	storetest.Bench(b, func(b testing.TB) pool.Store { return opened(b, sqlite.Options{}) })
}
