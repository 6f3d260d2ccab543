package town

import "syscall"

// bind has the kernel kill a child when the thread that started it ends.
func bind(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
