package backhaul

import (
	"sync"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// retryBudget bounds the failed tries of all requests together.
type retryBudget struct {
	mu     sync.Mutex
	budget hop.Budget
}

// earn notes a request.
func (b *retryBudget) earn(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.budget.Earn(now)
}

// afford takes a failed try out of the budget, or reports that it is spent.
func (b *retryBudget) afford(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.budget.Spend(now)
}
