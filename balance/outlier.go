package balance

// Outliers are machines that answer this node worse than the others do. They are moved to the tier of failing ones for a
// while, which is used only when nothing else is left; their hard limits hold there too.

const (
	// consecutive is how many failures in a row eject a machine.
	consecutive = 5
	// windowTicks is the length of the two windows over which the ratio of failures is exact. An average would hide a
	// tight burst.
	windowTicks = 50
	// ratioVolume is how many requests the windows must hold before their ratio counts.
	ratioVolume = 20
	// ejectFor is how long a machine is out the first time; each further ejection adds as much, up to maxEject times.
	ejectFor, maxEject = 300, 10 // 30 s, 5 min
	// calmAfter is how long it has to be well before an ejection is forgotten.
	calmAfter = 300
)

// failRatio is the share of failures that ejects a machine.
const failRatio = 0.5

// window counts requests and failures.
type window struct{ sent, failed uint32 }

func (w *window) add(sent, failed uint32) { w.sent += sent; w.failed += failed }

// sick reports whether the machine is an outlier: by failures in a row, or by their share.
func (p *past) sick(fails int) bool {
	sent, failed := p.window[0].sent+p.window[1].sent, p.window[0].failed+p.window[1].failed
	return fails >= consecutive || sent >= ratioVolume && float32(failed) > failRatio*float32(sent)
}

// eject puts the machine out from tick on.
func (p *past) eject(tick int64) {
	p.times = min(p.times+1, maxEject)
	p.ejected = tick + int64(p.times)*ejectFor
	p.window = [2]window{}
}

// ejectable reports whether one more machine of a region with n usable ones may be put out, so that afterwards no more
// than the share is: the percentage is that after the ejection. One of two or more can always be.
func ejectable(n, out int, share float64) bool {
	return n >= 2 && (out == 0 || float64(out+1) <= share*float64(n))
}
