package balance

// Tier orders machines by how well they can be used; a pick takes the first tier that has one with room.
type Tier uint8

// The tiers, best first. Hard limits hold in each of them.
const (
	TierReady    Tier = iota // started, not cordoned, not failing
	TierCordoned             // soft-cordoned
	TierComing               // recently started, checks still failing
	TierFailing              // checks failing, or ejected as an outlier: only when there is nothing else
	TierNone                 // cannot be used: not started, or hard-cordoned
)

// tiers is the number of tiers that can be used.
const tiers = TierNone

var tierNames = [...]string{"ready", "cordoned", "coming", "failing", "none"}

// String returns the tier's name as it stands in logs and JSON.
func (t Tier) String() string { return name(tierNames[:], uint8(t), "tier") }

func tierOf(s State, c Cordon, h Health, recent bool) Tier {
	switch {
	case s != Started || c == CordonHard:
		return TierNone
	case h == Failing && recent:
		return TierComing
	case h == Failing:
		return TierFailing
	case c == CordonSoft:
		return TierCordoned
	}
	return TierReady
}
