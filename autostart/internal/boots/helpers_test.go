package boots

import "time"

const sec = time.Second
