"""Qt's QNetworkAccessManager: qt_client.py URL CERTIFICATE UPLOAD."""

import sys
from pathlib import Path

from PyQt6.QtCore import QCoreApplication, QEventLoop, QUrl
from PyQt6.QtNetwork import (
    QNetworkAccessManager,
    QNetworkReply,
    QNetworkRequest,
    QSslCertificate,
    QSslConfiguration,
)

url, certificate, upload = sys.argv[1:]
application = QCoreApplication(sys.argv)
settings = QSslConfiguration.defaultConfiguration()
settings.setCaCertificates(QSslCertificate.fromPath(certificate))
QSslConfiguration.setDefaultConfiguration(settings)
manager = QNetworkAccessManager()


def finish(reply: QNetworkReply) -> None:
    loop = QEventLoop()
    reply.finished.connect(loop.quit)
    loop.exec()
    assert reply.error() == QNetworkReply.NetworkError.NoError, reply.errorString()
    reply.readAll()


finish(manager.get(QNetworkRequest(QUrl(f"{url}/download"))))
finish(manager.put(QNetworkRequest(QUrl(f"{url}/upload/body")), Path(upload).read_bytes()))
