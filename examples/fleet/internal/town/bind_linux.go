package town

import "syscall"

// bind has the kernel end a child with the thread that started it.
func bind(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
