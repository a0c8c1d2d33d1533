/* A client whose thread waits in NSPR's PR_Read for the answer to the one request that it sends on a port. */
#include <prerror.h>
#include <prinit.h>
#include <prio.h>
#include <prnetdb.h>
#include <nss.h>
#include <ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static SECStatus believe(void *argument, PRFileDesc *fd, PRBool check, PRBool is_server)
{
	return SECSuccess;
}

int main(int count, char **arguments)
{
	static const char request[] = "GET /waited-for HTTP/1.1\r\nHost: localhost\r\n\r\n";
	char answer[4096];
	PRNetAddr address;
	PRFileDesc *fd;
	int n;

	if (NSS_NoDB_Init(NULL) != SECSuccess || NSS_SetDomesticPolicy() != SECSuccess)
		return 1;
	PR_InitializeNetAddr(PR_IpAddrLoopback, atoi(arguments[1]), &address);
	fd = SSL_ImportFD(NULL, PR_NewTCPSocket());
	SSL_AuthCertificateHook(fd, believe, NULL);
	SSL_SetURL(fd, "localhost");
	if (PR_Connect(fd, &address, PR_INTERVAL_NO_TIMEOUT) != PR_SUCCESS || SSL_ForceHandshake(fd) != SECSuccess)
		return 2;
	if (PR_Write(fd, request, sizeof(request) - 1) != sizeof(request) - 1)
		return 3;
	printf("asked\n");
	fflush(stdout);
	n = PR_Read(fd, answer, sizeof(answer) - 1);
	if (n <= 0)
		return 4;
	answer[n] = 0;
	printf("%s\n", strstr(answer, "\r\n\r\n") + 4);
	return 0;
}
