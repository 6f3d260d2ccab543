package balance

// draw makes the random draws of one pick from its random bits.
type draw struct{ state uint64 }

// next returns more random bits; it is SplitMix64.
func (d *draw) next() uint64 {
	d.state += 0x9e3779b97f4a7c15
	z := d.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fair is after how many tries for each choice draws are no longer weighted.
const fair = 3

// from looks at n distinct places of a list, drawn by the room that their machines have, and returns the least word that
// is below w, else w.
func (d *draw) from(p *reach, list []int32, n int, w word) (least word, pos int32) {
	var had [maxChoices]int32
	rows := p.rows
	least = w
	k := 0
	for try := range 4 * maxChoices {
		bits := d.next()
		at := list[uint64(uint32(bits))*uint64(len(list))>>32]
		if k > 0 && isIn(had[:k], at) {
			continue
		}
		w := rows.word(at)
		if try < fair*n && !accept(useOf(w), p.level, p.least, uint32(bits>>32)) {
			continue
		}
		if w < least {
			least, pos = w, at
		}
		had[k] = at
		if k++; k == n {
			break
		}
	}
	return least, pos
}

func isIn(had []int32, pos int32) bool {
	for _, h := range had {
		if h == pos {
			return true
		}
	}
	return false
}

// drawn is draw.from for requests that exclude machines.
func (l *look) drawn(i int, list []int32, n int, b *found) {
	var had [maxChoices]int32
	p := &l.v.order[i]
	k := 0
	for try := 0; k < n && try < 4*maxChoices; try++ {
		bits := l.draw.next()
		pos := list[uint64(uint32(bits))*uint64(len(list))>>32]
		w := p.rows.word(pos)
		if isIn(had[:k], pos) || try < fair*n && !accept(useOf(w), p.level, p.least, uint32(bits>>32)) || !l.r.admits(p.rows.rows[pos]) {
			continue
		}
		had[k] = pos
		k++
		if w < b.w {
			b.w, b.slot = w, Slot{int32(i), pos}
		}
	}
}
