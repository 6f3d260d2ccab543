package backhaul

import "time"

// SetPatience sets how long a request may be refused, for tests from outside.
func (c *Config) SetPatience(d time.Duration) { c.patience = d }
